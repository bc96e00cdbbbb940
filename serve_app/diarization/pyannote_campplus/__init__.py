"""The pipeline pyannote-3.0-campplus: pyannote's segmentation finds where one person speaks, CAM++ embeds those
stretches, and clustering of the embeddings finds the speakers.
"""
