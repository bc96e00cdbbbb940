"""Word timestamps: dynamic time warping of cross-attention, splitting into words, clipping to speech."""
