"""The suite that judges a broker adapter.

Subclass ``BrokerContract`` in a test module and override ``make_world``::

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def make_world(self):
            return MyWorld          # a BrokerWorld, see support.py

The tests are coroutines: pytest-asyncio in its ``auto`` mode runs them.
"""

from __future__ import annotations

from umbel.testing.contracts.broker_bindings import BindingContract
from umbel.testing.contracts.broker_broadcast import BroadcastContract
from umbel.testing.contracts.broker_dead import DeadLetterContract, LossContract
from umbel.testing.contracts.broker_delivery import DeliveryContract
from umbel.testing.contracts.broker_leases import LeaseContract
from umbel.testing.contracts.broker_model import ModelContract
from umbel.testing.contracts.broker_results import SharedStoreContract
from umbel.testing.contracts.broker_revocations import RevocationContract, WithdrawalContract
from umbel.testing.contracts.broker_settlement import SettlementContract
from umbel.testing.contracts.broker_traffic import TrafficContract
from umbel.testing.contracts.support import LEASE, PATIENCE, BrokerWorld, ShiftedClock

__all__ = ["LEASE", "PATIENCE", "BrokerContract", "BrokerWorld", "ShiftedClock"]


class BrokerContract(
    DeliveryContract,
    SettlementContract,
    LeaseContract,
    SharedStoreContract,
    TrafficContract,
    BroadcastContract,
    BindingContract,
    RevocationContract,
    WithdrawalContract,
    LossContract,
    DeadLetterContract,
    ModelContract,
):
    """Every sentence of ``brokers.base``, as tests."""
