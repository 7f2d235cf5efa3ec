"""Alias of `audiocodec.models.export.compact`, kept for its users."""

from audiocodec.models.export.compact import (
    compact_state,
    export_encodec,
    inference_state,
    save_compact,
)

__all__ = ['compact_state', 'export_encodec', 'inference_state', 'save_compact']
