"""Further vector quantizers: codebooks learned by gradient, and products of quantizers."""
