"""What is asked: benchmarks, training sets, multiple choice, programming problems."""
