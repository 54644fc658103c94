"""Where the beats of an application agree on who leads, which ticks were sent, and which entries there are."""
