"""Runs after the fact: tables and pictures made from their ledgers."""
