"""Radloom: CT scans of many centres into radiomics tables that a statistician can trust."""
