"""The operator's loop: watches put keys into a queue, the lease holder works them off."""
