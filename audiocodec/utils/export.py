"""The name under which users know the export of a training checkpoint; see
`audiocodec.models.export.compact`.
"""

from audiocodec.models.export.compact import (
    compact_state,
    export_encodec,
    inference_state,
    save_compact,
)

__all__ = ['compact_state', 'export_encodec', 'inference_state', 'save_compact']
