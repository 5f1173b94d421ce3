"""What the lab is measured against: peers and its own plain ways, in one run each."""
