-- A small ledger of the third schema, for both dialects: an account with its allocation, and a reference whose
-- usage was rejected three times.

INSERT INTO accounts
    (user_id, tier, balance, sequence, allocated, lot_count, anchor, granted_until, period_granted, due_at, opened_at, updated_at)
VALUES
    ('u', 'free', 100, 1, 100, 1, '2026-11-22 10:15:00.000000', '2026-12-22 10:15:00.000000', 100, '2026-12-22 10:15:00.000000', '2026-11-22 10:15:00.000000', '2026-11-22 10:15:00.000000');

INSERT INTO operations
    (reference_id, type, user_id, attempt, content, status, code, amount, balance_before, balance_after, detail, first_entry, last_entry, recorded_at)
VALUES
    ('o', 'account.open', 'u', 1, '{"tier":"free"}', 'applied', 'account_opened', 100, 0, 100, '{"tier": "free"}', 1, 1, '2026-11-22 10:15:00.000000'),
    ('r', 'usage.deduct', 'u', 3, '{"tokens":5000}', 'rejected', 'insufficient_balance', NULL, 100, 100, '{"required": 5000, "available": 100, "shortfall": 4900}', NULL, NULL, '2026-11-22 10:17:00.000000');

INSERT INTO lots
    (account_id, number, operation_id, source, granted, remaining, is_open, priority, effective_at, expires_at)
VALUES
    (1, 1, 1, 'allocation', 100, 100, true, 10, '2026-11-22 10:15:00.000000', '2026-12-22 10:15:00.000000');

INSERT INTO entries
    (account_id, sequence, operation_id, counter, amount, balance_before, balance_after, lot, occurred_at, recorded_at)
VALUES
    (1, 1, 1, 'allocation', 100, 0, 100, 1, '2026-11-22 10:15:00.000000', '2026-11-22 10:15:00.000000');

INSERT INTO superseded_outcomes
    (operation_id, reference_id, type, user_id, attempt, content, status, code, balance_before, balance_after, detail, occurred_at, metadata, description, recorded_at)
VALUES
    (2, 'r', 'usage.deduct', 'u', 1, '{"tokens":5000}', 'rejected', 'insufficient_balance', 100, 100, '{"required": 5000, "available": 100, "shortfall": 4900}', '2026-11-22 09:15:00.000000', '{"ä": 1}', 'too much', '2026-11-22 10:15:00.000000'),
    (2, 'r', 'usage.deduct', 'u', 2, '{"tokens":5000}', 'rejected', 'insufficient_balance', 100, 100, '{"required": 5000, "available": 100, "shortfall": 4900}', NULL, NULL, NULL, '2026-11-22 10:16:00.000000');
