"""Neo: sharded training of embedding tables (Mudigere et al., ISCA 2022): the planner."""
