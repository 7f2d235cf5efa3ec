"""What several formats share: names of weights, weight normalization, model cards."""
