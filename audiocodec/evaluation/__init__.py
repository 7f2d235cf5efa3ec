"""Evaluation of codecs on audio: systems at several rates, scores of every item, summaries."""

from audiocodec.evaluation.baselines import AAC, MP3, Opus
from audiocodec.evaluation.codec import Codec
from audiocodec.evaluation.systems import Rendition, System

__all__ = ['AAC', 'MP3', 'Codec', 'Opus', 'Rendition', 'System']
