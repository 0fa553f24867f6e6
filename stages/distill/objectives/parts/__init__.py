"""What several objectives are made of; no objective of its own."""
