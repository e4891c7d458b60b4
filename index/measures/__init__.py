"""Measures of answers that need no judge: their form, whether they refuse, and confidence intervals."""
