"""What tests and benchmarks share: private servers, real worker processes, waiting without sleeping."""
