"""Model card: the `README.md` of a folder for `transformers`, which the Hub displays."""

from audiocodec.models.base import CompressionModel


def model_card(model: CompressionModel, rates: list[float], origin: str) -> str:
    """Return the model card: properties of the model, and how to use it.

    Args:
        model: the model.
        rates: its bandwidths (kbps).
        origin: a sentence on its origin.
    """
    shape = '' if model.channels == 1 else ' with two channels, [2, samples]'
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- audio
- encodec
- neural-audio-codec
---

# EnCodec, {model.sample_rate / 1000:g} kHz {'mono' if model.channels == 1 else 'stereo'}

A neural audio codec (EnCodec, [arXiv 2210.13438](https://arxiv.org/abs/2210.13438)), trained
with audiocodec and exported for `transformers`. {origin}

| | |
|---|---|
| sample rate | {model.sample_rate} Hz |
| channels | {model.channels} |
| frame rate | {model.frame_rate:g} Hz |
| codebooks | {model.total_codebooks} of {model.cardinality} entries |
| bandwidths | {', '.join(f'{rate:g}' for rate in rates)} kbps |

## Use

```python
import numpy as np
from transformers import AutoFeatureExtractor, EncodecModel

name = 'this folder, or the id of the repository'
model = EncodecModel.from_pretrained(name)
extractor = AutoFeatureExtractor.from_pretrained(name)
# floats in [-1, 1]{shape}
audio = np.zeros({'24000' if model.channels == 1 else '(2, 24000)'}, dtype=np.float32)
inputs = extractor(raw_audio=audio, sampling_rate=extractor.sampling_rate, return_tensors='pt')
encoded = model.encode(inputs['input_values'], inputs['padding_mask'], bandwidth={rates[-1]!r})
decoded = model.decode(encoded.audio_codes, encoded.audio_scales, inputs['padding_mask'])
wav = decoded.audio_values[..., :audio.shape[-1]]  # [1, {model.channels}, samples]
```

`parity.json` compares codes and waveforms with those of the model that it was exported from.
"""
