"""Fine-tuning one model with Lightning: the only room that knows lightning."""
