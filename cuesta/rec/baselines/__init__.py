"""DLRM and DCNv2 with ragged histories: the rankers that every other one here is measured
against.
"""
