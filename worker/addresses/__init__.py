"""Addresses of the broker and the database: URLs in their usual forms, of one server or of several.

Pure: text in, values out. What is written wrong raises ValueError.
"""

from worker.addresses.broker import BrokerAddress
from worker.addresses.certificates import with_certificates
from worker.addresses.database import DatabaseAddress, of_primary
from worker.addresses.files import Certificates
from worker.addresses.management import ManagementAddress, management_addresses, require_management
from worker.addresses.urls import Server, is_amqp, is_postgresql, require_unambiguous, shown

__all__ = [
    "BrokerAddress",
    "Certificates",
    "DatabaseAddress",
    "ManagementAddress",
    "Server",
    "is_amqp",
    "is_postgresql",
    "management_addresses",
    "of_primary",
    "require_management",
    "require_unambiguous",
    "shown",
    "with_certificates",
]
