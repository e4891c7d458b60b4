"""Measures of answers that need no judge: their form, refusals by their words, and confidence intervals."""
