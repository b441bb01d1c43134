"""The whole capability matrix: every module of rows, in the order of the page."""

import capability_request_cases  # noqa: F401, I001 - the order of the page; rows register themselves
import capability_tools_cases  # noqa: F401 - as above
import capability_json_cases  # noqa: F401 - as above
import capability_answer_cases  # noqa: F401 - as above

from capability_kit import FEATURES, table

__all__ = ["FEATURES", "table"]
