"""What it used: an upper bound before, the tap while events pass, an estimate if nobody told."""
