"""Certificate of a model: each way of computing it gives the same codes and waveforms."""

from audiocodec.models.certificate.certificate import Certificate, certify
from audiocodec.models.certificate.clips import Clips, load_clips

__all__ = ['Certificate', 'Clips', 'certify', 'load_clips']
