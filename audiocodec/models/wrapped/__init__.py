"""Models of other packages behind the interface of `CompressionModel`."""
