"""Videos as tokens: how many groups of frames one is, and what a group can take.

Two frames a second are looked at, four of them make a group, and a group takes what one frame of at
most 4,096 patches takes, with its time written before it. How long a video plays is what its file
says; how large its frames are may be another matter than its file says, so that counts for the
estimate alone.
"""

from typing import Final

from moongate.core.request import VideoPart
from moongate.meter import images

PATCHES_MAX: Final = 4_096
FRAME_TOKENS_MAX: Final = 1_400
"""More than any frame takes: 6741 by 153 pixels take most, 1,338."""
_PER_SECOND: Final = 2
_PER_GROUP: Final = 4
_AROUND: Final = 24
"""More than a group's time and marks take, and than what stands around the whole."""
_TIME: Final = 8
"""About what a group's time and marks take."""


def groups(duration_ms: int) -> int:
    """Groups of frames of a video that plays so long; at least one."""
    frames = -(-duration_ms * _PER_SECOND // 1000) + 1
    return -(-frames // _PER_GROUP)


def bound(video: VideoPart) -> int | None:
    """Tokens that ``video`` does not exceed; ``None`` where its length is not known."""
    if video.duration_ms is None:
        return None
    return groups(video.duration_ms) * (FRAME_TOKENS_MAX + _AROUND) + _AROUND


def estimate(video: VideoPart) -> int:
    """About what ``video`` takes; 0 where its file does not tell enough."""
    if video.duration_ms is None or video.size is None:
        return 0
    return groups(video.duration_ms) * (images.tokens(*video.size, PATCHES_MAX) + _TIME)
