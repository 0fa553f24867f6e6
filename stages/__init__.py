"""The stages: each one a folder whose ``stage.py`` is read first."""

from stages.distill.stage import STAGE as DISTILL
from stages.draw_scenes.stage import STAGE as DRAW_SCENES
from stages.embed.stage import STAGE as EMBED
from stages.encode_images.stage import STAGE as ENCODE_IMAGES
from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER
from stages.evaluate.stage import STAGE as EVALUATE
from stages.export.stage import STAGE as EXPORT
from stages.index.stage import STAGE as INDEX
from stages.pack.stage import STAGE as PACK
from stages.prototypes.stage import STAGE as PROTOTYPES
from stages.report.stage import STAGE as REPORT

STAGES = (
    ENCODE_TEACHER,
    ENCODE_IMAGES,
    PACK,
    PROTOTYPES,
    REPORT,
    DISTILL,
    EVALUATE,
    EXPORT,
    EMBED,
    INDEX,
    DRAW_SCENES,
)
