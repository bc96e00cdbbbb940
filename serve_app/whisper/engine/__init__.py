"""The engine: scheduler, continuous batching, and the stages of each window: encoder, decoder, alignment."""
