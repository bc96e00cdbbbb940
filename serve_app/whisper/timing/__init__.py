"""Word timestamps: dynamic time warping of cross-attention, words and their bounds."""
