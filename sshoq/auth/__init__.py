"""Who somebody is: keys, tokens, agents, known hosts and authorized keys."""
