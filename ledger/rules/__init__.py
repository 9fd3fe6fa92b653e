"""The rules, one room each. All pure: book + question → answer. :mod:`ledger.decide` calls them."""
