"""Raw text to text worth learning: repaired, filtered by named rules, without copies, without the exams that will be sat.

A document passes through `clean.Cleaner` alone; what needs the whole corpus (copies) is decided from signatures on disk (`copies`).
"""
