"""Studies: matrices of fine-tuning runs, how they are run, and what is read off them."""
