"""Models of other packages with the interface of `CompressionModel`."""
