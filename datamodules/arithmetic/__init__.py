"""The embedded domain: chains of modular arithmetic with exact step truth, and a tiny policy warm-started on them."""
