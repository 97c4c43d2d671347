"""Answering at once: releases, who is answered how, and the server's HTTP side. No Ray."""
