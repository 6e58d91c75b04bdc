-- What the worker of revision 0001 wrote (commit 614d263), for PostgreSQL and SQLite: four accounts,
-- one of them used up and one that never had tokens; applied and rejected operations of all six types, an account
-- that was refused; a rejection that was judged anew twice. Ids are given by the database, from 1.

INSERT INTO accounts
    (user_id, tier, balance, sequence, allocated, purchased, bonus, refunded, used, opened_at, updated_at)
VALUES
    ('ada', 'pro', 626000, 7, 500000, 250000, 25300, 700, 150000, '2026-01-31 23:59:59.999999', '2026-04-03 08:00:00.000000'),
    ('ben', 'free', 0, 3, 10000, 0, 0, 0, 10000, '2026-02-28 22:30:00.000000', '2026-04-03 08:00:00.000000'),
    ('cyd', 'guest', 0, 0, 0, 0, 0, 0, 0, '2026-02-28 22:30:00.000000', '2026-02-28 22:30:00.000000'),
    ('dee', 'basic', 150000, 2, 100000, 50000, 0, 0, 0, '2026-03-01 00:00:00.000000', '2026-03-17 09:30:00.123456');

INSERT INTO operations
    (reference_id, type, user_id, attempt, content, status, code, amount, balance_before, balance_after, detail, occurred_at, metadata, description, recorded_at)
VALUES
    ('open-ada', 'account.open', 'ada', 1, '{"tier":"pro"}', 'applied', 'account_opened', 500000, 0, 500000, '{"tier": "pro"}', NULL, '{"plan": "yearly"}', NULL, '2026-01-31 23:59:59.999999'),
    ('open-ada-again', 'account.open', 'ada', 1, '{"tier":"free"}', 'rejected', 'account_exists', NULL, 500000, 500000, '{"tier": "pro"}', NULL, NULL, NULL, '2026-02-28 22:30:00.000000'),
    ('open-ben', 'account.open', 'ben', 1, '{"tier":"free"}', 'applied', 'account_opened', 10000, 0, 10000, '{"tier": "free"}', NULL, NULL, NULL, '2026-02-28 22:30:00.000000'),
    ('open-cyd', 'account.open', 'cyd', 1, '{"tier":"guest"}', 'applied', 'account_opened', 0, 0, 0, '{"tier": "guest"}', NULL, NULL, NULL, '2026-02-28 22:30:00.000000'),
    ('open-eve', 'account.open', 'eve', 1, '{"tier":"gold"}', 'rejected', 'unknown_tier', NULL, NULL, NULL, '{"tier": "gold"}', NULL, NULL, NULL, '2026-02-28 22:30:00.000000'),
    ('open-dee', 'account.open', 'dee', 1, '{"tier":"basic"}', 'applied', 'account_opened', 100000, 0, 100000, '{"tier": "basic"}', '2026-02-28 12:00:00.000000', NULL, NULL, '2026-03-01 00:00:00.000000'),
    ('job-1', 'usage.deduct', 'ada', 1, '{"feature":"search","tokens":120000}', 'applied', 'tokens_deducted', 120000, 500000, 380000, NULL, '2026-03-17 09:29:00.000000', NULL, 'Überblick 📚; it''s long', '2026-03-17 09:30:00.123456'),
    ('job-2', 'usage.deduct', 'ben', 1, '{"tokens":9000}', 'applied', 'tokens_deducted', 9000, 10000, 1000, NULL, NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('job-3', 'usage.deduct', 'ben', 3, '{"tokens":1000}', 'applied', 'tokens_deducted', 1000, 1000, 0, NULL, NULL, NULL, NULL, '2026-04-03 08:00:00.000000'),
    ('job-4', 'usage.deduct', 'cyd', 1, '{"tokens":1}', 'rejected', 'insufficient_balance', NULL, 0, 0, '{"required": 1, "available": 0, "shortfall": 1}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('job-nobody', 'usage.deduct', 'nobody', 1, '{"tokens":1}', 'rejected', 'account_not_found', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('pay-1', 'payment.succeeded', 'ada', 1, '{"amountMinor":1999,"currency":"USD","packageId":"standard"}', 'applied', 'tokens_purchased', 275000, 380000, 655000, '{"package_id": "standard", "base_tokens": 250000, "bonus_tokens": 25000}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('pay-2', 'payment.succeeded', 'dee', 1, '{"amountMinor":499,"currency":"USD","packageIndex":0}', 'applied', 'tokens_purchased', 50000, 100000, 150000, '{"package_id": "starter", "base_tokens": 50000, "bonus_tokens": 0}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('pay-cheap', 'payment.succeeded', 'dee', 1, '{"amountMinor":1,"currency":"USD","packageId":"plus"}', 'rejected', 'amount_mismatch', NULL, 150000, 150000, '{"package_id": "plus", "expected": "6999 USD", "received": "1 USD"}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('upload-1', 'usage.free_upload', 'ada', 1, '{"bytes":1000000}', 'applied', 'free_upload_counted', 1000000, 380000, 380000, '{"limit": 10737418240, "used": 1000000}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('upload-2', 'usage.free_upload', 'cyd', 1, '{"bytes":4096}', 'applied', 'free_upload_counted', 4096, 0, 0, '{"limit": 104857600, "used": 4096}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('upload-big', 'usage.free_upload', 'cyd', 1, '{"bytes":1000000000000}', 'rejected', 'free_upload_limit_exceeded', NULL, 0, 0, '{"required": 1000000000000, "available": 104853504, "shortfall": 999895146496, "limit": 104857600, "used": 4096}', NULL, NULL, NULL, '2026-03-17 09:30:00.123456'),
    ('bonus-1', 'credit.bonus', 'ada', 1, '{"tokens":300}', 'applied', 'bonus_granted', 300, 655700, 656000, NULL, NULL, '{"campaign": "spring"}', NULL, '2026-04-02 08:00:00.000000'),
    ('refund-1', 'credit.refund', 'ada', 1, '{"tokens":700}', 'applied', 'tokens_refunded', 700, 655000, 655700, NULL, NULL, NULL, NULL, '2026-04-02 08:00:00.000000'),
    ('upload-3', 'usage.free_upload', 'ada', 1, '{"bytes":2500000}', 'applied', 'free_upload_counted', 2500000, 656000, 656000, '{"limit": 10737418240, "used": 2500000}', NULL, NULL, NULL, '2026-04-02 08:00:00.000000'),
    ('upload-4', 'usage.free_upload', 'ada', 1, '{"bytes":500000}', 'applied', 'free_upload_counted', 500000, 656000, 656000, '{"limit": 10737418240, "used": 3000000}', NULL, NULL, NULL, '2026-04-02 08:00:00.000000'),
    ('job-5', 'usage.deduct', 'ada', 1, '{"feature":"ocr","tokens":30000}', 'applied', 'tokens_deducted', 30000, 656000, 626000, NULL, NULL, NULL, NULL, '2026-04-03 08:00:00.000000'),
    ('job-poor', 'usage.deduct', 'ben', 1, '{"tokens":1}', 'rejected', 'insufficient_balance', NULL, 0, 0, '{"required": 1, "available": 0, "shortfall": 1}', NULL, NULL, NULL, '2026-04-03 08:00:00.000000');

INSERT INTO superseded_outcomes
    (operation_id, reference_id, type, user_id, attempt, content, status, code, amount, balance_before, balance_after, detail, occurred_at, metadata, description, recorded_at)
VALUES
    (9, 'job-3', 'usage.deduct', 'ben', 1, '{"tokens":2000}', 'rejected', 'insufficient_balance', NULL, 1000, 1000, '{"required": 2000, "available": 1000, "shortfall": 1000}', NULL, '{"tries": 1, "is_late": false, "note": null}', NULL, '2026-03-17 09:30:00.123456'),
    (9, 'job-3', 'usage.deduct', 'ben', 2, '{"tokens":1500}', 'rejected', 'insufficient_balance', NULL, 1000, 1000, '{"required": 1500, "available": 1000, "shortfall": 500}', NULL, NULL, NULL, '2026-04-02 08:00:00.000000');

INSERT INTO entries
    (account_id, sequence, operation_id, counter, amount, balance_before, balance_after, feature, occurred_at, recorded_at)
VALUES
    (1, 1, 1, 'allocation', 500000, 0, 500000, NULL, '2026-01-31 23:59:59.999999', '2026-01-31 23:59:59.999999'),
    (2, 1, 3, 'allocation', 10000, 0, 10000, NULL, '2026-02-28 22:30:00.000000', '2026-02-28 22:30:00.000000'),
    (4, 1, 6, 'allocation', 100000, 0, 100000, NULL, '2026-02-28 12:00:00.000000', '2026-03-01 00:00:00.000000'),
    (1, 2, 7, 'usage', -120000, 500000, 380000, 'search', '2026-03-17 09:29:00.000000', '2026-03-17 09:30:00.123456'),
    (1, 3, 12, 'purchases', 250000, 380000, 630000, NULL, '2026-03-17 09:30:00.123456', '2026-03-17 09:30:00.123456'),
    (1, 4, 12, 'bonus', 25000, 630000, 655000, NULL, '2026-03-17 09:30:00.123456', '2026-03-17 09:30:00.123456'),
    (4, 2, 13, 'purchases', 50000, 100000, 150000, NULL, '2026-03-17 09:30:00.123456', '2026-03-17 09:30:00.123456'),
    (2, 2, 8, 'usage', -9000, 10000, 1000, NULL, '2026-03-17 09:30:00.123456', '2026-03-17 09:30:00.123456'),
    (1, 5, 19, 'refunds', 700, 655000, 655700, NULL, '2026-04-02 08:00:00.000000', '2026-04-02 08:00:00.000000'),
    (1, 6, 18, 'bonus', 300, 655700, 656000, NULL, '2026-04-02 08:00:00.000000', '2026-04-02 08:00:00.000000'),
    (2, 3, 9, 'usage', -1000, 1000, 0, NULL, '2026-04-03 08:00:00.000000', '2026-04-03 08:00:00.000000'),
    (1, 7, 22, 'usage', -30000, 656000, 626000, 'ocr', '2026-04-03 08:00:00.000000', '2026-04-03 08:00:00.000000');

INSERT INTO payments
    (operation_id, account_id, package_id, amount_minor, currency, base_tokens, bonus_tokens, provider, recorded_at)
VALUES
    (12, 1, 'standard', 1999, 'USD', 250000, 25000, 'stripe', '2026-03-17 09:30:00.123456'),
    (13, 4, 'starter', 499, 'USD', 50000, 0, NULL, '2026-03-17 09:30:00.123456');

INSERT INTO quotas
    (account_id, meter, period_start, used, sequence)
VALUES
    (1, 'free_upload', '2026-03-01', 1000000, 1),
    (3, 'free_upload', '2026-03-01', 4096, 1),
    (1, 'free_upload', '2026-04-01', 3000000, 2);

INSERT INTO quota_entries
    (account_id, meter, period_start, sequence, operation_id, amount, used_before, used_after, recorded_at)
VALUES
    (1, 'free_upload', '2026-03-01', 1, 15, 1000000, 0, 1000000, '2026-03-17 09:30:00.123456'),
    (3, 'free_upload', '2026-03-01', 1, 16, 4096, 0, 4096, '2026-03-17 09:30:00.123456'),
    (1, 'free_upload', '2026-04-01', 1, 20, 2500000, 0, 2500000, '2026-04-02 08:00:00.000000'),
    (1, 'free_upload', '2026-04-01', 2, 21, 500000, 2500000, 3000000, '2026-04-02 08:00:00.000000');
