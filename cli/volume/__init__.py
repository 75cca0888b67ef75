"""volume: files that outlive the instances that use them."""
