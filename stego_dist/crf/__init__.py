"""The fully connected CRF that refines predictions."""
