"""Code shared by benchmarks/, chaos/, training/ and tests/: a service process, recordings, sounds and scoring."""
