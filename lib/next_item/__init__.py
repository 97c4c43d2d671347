"""What comes next in a visit: rank items given the events so far, by strategies that learn from earlier visits."""
