"""What every part of the optimizer uses: candidates, settings, the journal, budgets and errors."""
