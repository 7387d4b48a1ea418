"""Parts of the optimizer step: gradients, learning rate schedules, and what of Lightning's Trainer goes with them."""
