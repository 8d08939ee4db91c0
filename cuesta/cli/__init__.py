"""The `cuesta` command. Modules here import torch and the systems only once a verb runs."""
