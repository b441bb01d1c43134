"""The operator's operations, each written once for both roads.

The web layer mounts :meth:`Office.dispatch` under ``/admin/v1`` (admin keys, and the admin
socket); a command that finds no server runs the same dispatch over the store it opened itself.
This package refuses to know which road a call came by, and how an answer is shown.
"""

from moongate.admin.call import Means, Operator
from moongate.admin.office import OPERATIONS, Office

__all__ = ["OPERATIONS", "Means", "Office", "Operator"]
