"""What every technique needs: checkpoints, the training loop, the exporter."""
