"""The tables of the ledger, as the steps that bring one from version to version; ``docs/ledger.md`` describes them."""

from __future__ import annotations

from piano_engage_common.duck import name, text

from target_recurly_engage.traits import SQL_TYPES, TRAITS

_SUBSCRIPTION_COLUMNS = ", ".join(
    ["aid VARCHAR", "user_id VARCHAR"]
    + [f"{name(trait.name)} {SQL_TYPES[trait.kind]}" for trait in TRAITS]
    + ["modify_time TIMESTAMP WITH TIME ZONE"]
)

_FIRST_TRAITS = ", ".join(f"({text(trait.name)}, {text(trait.kind)})" for trait in TRAITS)

MIGRATIONS: tuple[str, ...] = (
    # 1: the first ledger
    f"""
    CREATE TABLE subscriptions ({_SUBSCRIPTION_COLUMNS});
    CREATE TABLE delivered (
        user_id VARCHAR,
        delivery_id VARCHAR,
        fingerprint UBIGINT,
        {", ".join(f"{name(trait.name)} VARCHAR" for trait in TRAITS)}
    );
    CREATE TABLE runs (
        run_id VARCHAR NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        status VARCHAR NOT NULL,
        summary JSON
    );
    CREATE TABLE deliveries (
        delivery_id VARCHAR NOT NULL,
        run_id VARCHAR NOT NULL,
        channel VARCHAR NOT NULL,
        location VARCHAR NOT NULL,
        status VARCHAR NOT NULL,
        users BIGINT NOT NULL,
        bytes BIGINT,
        sha256 VARCHAR,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        acknowledged_at TIMESTAMP WITH TIME ZONE
    );
    CREATE VIEW delivered_traits AS
        UNPIVOT delivered ON COLUMNS (* EXCLUDE (user_id, delivery_id, fingerprint)) INTO NAME trait VALUE value;
    """,
    # 2: readers that the Ingest API rejected
    """
    CREATE TABLE rejects (
        user_id VARCHAR NOT NULL,
        status INTEGER NOT NULL,
        reason VARCHAR NOT NULL,
        attempts INTEGER NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE NOT NULL,
        next_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    """,
    # 3: traits by setting, streams of users, values that cannot be sent, what is sent again, plans let through
    f"""
    CREATE TABLE traits (
        trait VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        stream VARCHAR,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    INSERT INTO traits SELECT *, NULL, now() FROM (VALUES {_FIRST_TRAITS});
    CREATE TABLE invalid (
        user_id VARCHAR NOT NULL,
        trait VARCHAR NOT NULL,
        reason VARCHAR NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    CREATE TABLE overtaken (user_id VARCHAR NOT NULL, after TIMESTAMP WITH TIME ZONE NOT NULL);
    CREATE TABLE accepted (
        fingerprint VARCHAR NOT NULL,
        run_id VARCHAR NOT NULL,
        accepted_at TIMESTAMP WITH TIME ZONE NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE
    );
    ALTER TABLE rejects ADD COLUMN fingerprint UBIGINT;
    """,
    # 4: what the publisher sells, and when a reader was first told the arm of an experiment
    """
    CREATE TABLE promotions (
        aid VARCHAR, promotion_id VARCHAR, promotion_name VARCHAR, status VARCHAR, fixed_promotion_code VARCHAR,
        promotion_code_prefix VARCHAR, unlimited_uses BOOLEAN, uses_allowed BIGINT, uses BIGINT,
        new_customers_only BOOLEAN, discount_type VARCHAR, discount VARCHAR, discount_amount DECIMAL(18,4),
        discount_currency VARCHAR, percentage_discount DECIMAL(18,4), fixed_discount_list JSON,
        term_dependency_type VARCHAR, term_ids JSON, start_date TIMESTAMP WITH TIME ZONE,
        end_date TIMESTAMP WITH TIME ZONE, can_be_applied_on_renewal BOOLEAN, deleted BOOLEAN
    );
    CREATE TABLE promo_codes (
        aid VARCHAR, promo_code_id VARCHAR, promotion_id VARCHAR, promo_code VARCHAR, state_value VARCHAR,
        deleted BOOLEAN
    );
    CREATE TABLE terms (
        aid VARCHAR, term_id VARCHAR, term_name VARCHAR, type VARCHAR, resource_id VARCHAR, resource_name VARCHAR,
        payment_new_customers_only BOOLEAN, payment_allow_promo_codes BOOLEAN
    );
    CREATE TABLE assignments (
        experiment VARCHAR NOT NULL,
        user_id VARCHAR NOT NULL,
        arm VARCHAR NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    """,
    # 5: what Piano's API says of subscriptions, for comparison only; readers who were erased, by a salted hash
    """
    CREATE TABLE api_subscriptions (
        aid VARCHAR,
        subscription_id VARCHAR,
        user_id VARCHAR,
        api_status VARCHAR,
        api_status_name VARCHAR,
        auto_renew BOOLEAN,
        start_date TIMESTAMP WITH TIME ZONE,
        end_date TIMESTAMP WITH TIME ZONE,
        term_id VARCHAR,
        term_name VARCHAR,
        read_at TIMESTAMP WITH TIME ZONE
    );
    CREATE TABLE salt (salt VARCHAR NOT NULL);
    CREATE TABLE erased (
        digest VARCHAR NOT NULL,
        status VARCHAR NOT NULL,
        requested_at TIMESTAMP WITH TIME ZONE NOT NULL,
        receipt JSON NOT NULL
    );
    """,
    # 6: subscriptions that were read from Piano between two runs
    """
    CREATE TABLE handed_over (
        user_id VARCHAR NOT NULL,
        subscription_id VARCHAR NOT NULL,
        told_at TIMESTAMP WITH TIME ZONE NOT NULL,
        piano_at TIMESTAMP WITH TIME ZONE NOT NULL,
        content VARCHAR NOT NULL
    );
    """,
    # 7: what the tap's state may claim
    """
    CREATE TABLE taken_in (number INTEGER NOT NULL, stream VARCHAR NOT NULL, signature VARCHAR);
    """,
    # 8: finished checkouts of which Engage was told at once
    """
    CREATE TABLE checkouts (
        checkout_id VARCHAR NOT NULL,
        user_id VARCHAR NOT NULL,
        tracker VARCHAR NOT NULL,
        told_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    """,
    # 9: what each run measured, for the brake of later ones
    """
    CREATE TABLE measures (
        run_id VARCHAR NOT NULL,
        measured_at TIMESTAMP WITH TIME ZONE NOT NULL,
        judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
        users BIGINT NOT NULL,
        subscriptions BIGINT NOT NULL,
        newest TIMESTAMP WITH TIME ZONE,
        ahead BIGINT NOT NULL,
        unknown_words BIGINT NOT NULL,
        filled JSON NOT NULL,
        rules JSON NOT NULL
    );
    """,
    # 10: destinations, of which each has its own delivered traits; a file is written, not acknowledged
    """
    CREATE TABLE destinations (
        destination INTEGER NOT NULL,
        folder VARCHAR,
        bucket VARCHAR,
        application VARCHAR,
        is_current BOOLEAN NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL,
        served_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    CREATE TABLE earlier_deliveries (user_id VARCHAR NOT NULL, delivery_id VARCHAR NOT NULL);
    ALTER TABLE deliveries ADD COLUMN destination INTEGER;
    UPDATE deliveries SET status = 'complete' WHERE status = 'written';
    UPDATE deliveries SET status = 'written' WHERE status = 'acknowledged' AND channel = 'file';
    """,
    # 11: properties of a subscription of which what came is no value
    """
    ALTER TABLE subscriptions ADD COLUMN invalid_properties VARCHAR;
    """,
)
"""What brings a ledger from one version to the next; the version is the number of those that were applied."""

VERSION = len(MIGRATIONS)
