"""The domain: requests, transcripts, jobs, languages. Imports no other folder."""
