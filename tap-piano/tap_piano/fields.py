"""The properties of the streams that come from the Publisher API, as data.

One row says of one property where it stands in Piano's answer, what it holds and whether it is personal; schemas,
default selection, conversion and documentation are made from it. Names and types are those of the official SDK
16.988 (fact sheet of the Piano API, 3.1 to 3.7); where a property means what a column of the subscription log means,
it has that column's name.
"""

from __future__ import annotations

from typing import Final

from tap_piano.records import BOOLEAN, INTEGER, LIST, MOMENT, NUMBER, OBJECT, TEXTS, UNKNOWN_FIELDS, Field

AID: Final = Field("aid", "Application id")
_CREATED: Final = Field("create_date", "When it was made", type=MOMENT)
_UPDATED: Final = Field("update_date", "When the publisher last changed it", type=MOMENT)
_MADE_BY: Final = (
    Field("create_by", "Who made it", personal=True),
    Field("update_by", "Who last changed it", personal=True),
)
_MADE_BY_USER: Final = (
    Field("create_by", "Who made it", type=OBJECT, personal=True),
    Field("update_by", "Who last changed it", type=OBJECT, personal=True),
)
_DELETED: Final = Field("deleted", "Whether it was deleted", type=BOOLEAN, limits=True)

TERMS: Final = (
    AID,
    Field("term_id", "Term id"),
    Field("term_name", "Name of the term", source="name"),
    Field("type", "Type of the term as the API writes it, such as `payment` or `dynamic`"),
    Field("term_type", "Type of the term as the log writes it, such as `Payment`", source="type_name"),
    Field("description", "Description for the publisher"),
    Field("resource_id", "Resource that the term gives access to", source="resource.rid"),
    Field("resource_name", "Name of that resource", source="resource.name"),
    Field("product_category", "Product category"),
    Field("verify_on_renewal", "Whether an external term is verified again on renewal", type=BOOLEAN),
    _CREATED,
    _UPDATED,
    Field("term_billing_descriptor", "What stands on the reader's bank statement"),
    Field("payment_billing_plan", "Billing plan in Piano's notation"),
    Field("payment_billing_plan_description", "Billing plan in words"),
    Field("payment_billing_plan_table", "Billing plan as rows; truth values stand there as text", type=LIST),
    Field("payment_allow_renew_days", "Days before the end from which it may be renewed", type=INTEGER),
    Field("payment_force_auto_renew", "Whether it always renews itself", type=BOOLEAN),
    Field("payment_is_custom_price_available", "Whether the reader may name a price", type=BOOLEAN),
    Field("payment_is_subscription", "Whether it is charged again and again", type=BOOLEAN),
    Field("payment_has_free_trial", "Whether it begins with a free trial", type=BOOLEAN),
    Field("payment_new_customers_only", "Whether only new customers may buy it", type=BOOLEAN, limits=True),
    Field("payment_trial_new_customers_only", "Whether only new customers get the trial", type=BOOLEAN),
    Field("payment_allow_promo_codes", "Whether promo codes are taken", type=BOOLEAN, limits=True),
    Field("payment_renew_grace_period", "Days of grace after a failed renewal", type=INTEGER),
    Field("payment_allow_gift", "Whether it can be given away", type=BOOLEAN),
    Field("payment_currency", "Currency, ISO 4217"),
    Field("currency_symbol", "Sign of the currency"),
    Field("payment_first_price", "First price that is charged", type=NUMBER),
    Field("schedule", "Schedule of issues", type=OBJECT),
    Field("schedule_billing", "How the schedule is billed"),
    Field("custom_require_user", "Custom terms: whether a reader must have signed in", type=BOOLEAN),
    Field("custom_default_access_period", "Custom terms: seconds of access", type=INTEGER),
    Field("adview_access_period", "Ad view terms: seconds of access", type=INTEGER),
    Field("registration_access_period", "Registration terms: seconds of access", type=INTEGER),
    Field("registration_grace_period", "Registration terms: seconds of grace", type=INTEGER),
    Field("external_api_id", "External terms: id of the API"),
    Field("external_api_name", "External terms: name of the API"),
    Field("external_api_source", "External terms: number of the API's kind", type=INTEGER),
    Field("external_api_form_fields", "External terms: fields of the form", type=LIST),
    Field("evt_verification_period", "External terms: seconds between verifications", type=INTEGER),
    Field("evt_grace_period", "External terms: days of grace", type=INTEGER),
    Field("collect_address", "Whether an address is asked for", type=BOOLEAN),
    Field("delivery_zone", "Delivery zones", type=LIST),
    Field("default_country", "Default country", type=OBJECT),
    Field("vouchering_policy", "Vouchers", type=OBJECT),
    Field("billing_config", "How dynamic terms are billed"),
    Field("billing_configuration", "Access periods of a dynamic term, JSON as text"),
    Field("collect_shipping_address", "Whether a shipping address is asked for", type=BOOLEAN),
    Field(
        "is_allowed_to_change_schedule_period_in_past", "Whether past periods of a schedule may change", type=BOOLEAN
    ),
    Field("shared_account_count", "How many accounts may share it", type=INTEGER),
    Field("shared_redemption_url", "Where shared accounts are redeemed"),
    Field("show_full_billing_plan", "Whether the checkout shows the whole plan", type=BOOLEAN),
    Field("external_term_id", "Linked terms: id elsewhere"),
    Field("external_product_ids", "Linked terms: products elsewhere"),
    Field("subscription_management_url", "Linked terms: where the reader manages the subscription"),
    Field("custom_data", "Custom data", type=OBJECT),
    Field("allow_start_in_future", "Whether it may begin later", type=BOOLEAN),
    Field("maximum_days_in_advance", "How many days later at most", type=INTEGER),
    Field("allow_renewable_gifting", "Whether gifts may renew", type=BOOLEAN),
    Field("gift_redemption_url", "Where gifts are redeemed"),
    Field("cadence_limit_warning", "Whether Piano warns of the cadence", type=BOOLEAN),
    Field("change_option_ids", "Ids of the change options that lead away from it", type=TEXTS,
          source="change_options.term_change_option_id"),
)  # fmt: skip

TERM_CHANGE_OPTIONS: Final = (
    AID,
    Field("term_change_option_id", "Id of the change option"),
    Field("update_date", "When the term it leads away from was last changed", type=MOMENT),
    *(
        field
        for side, words in (("from", "it leads away from"), ("to", "it leads to"))
        for field in (
            Field(f"{side}_term_id", f"Term {words}"),
            Field(f"{side}_term_name", f"Name of the term {words}"),
            Field(f"{side}_period_id", f"Period of the term {words}"),
            Field(f"{side}_period_name", f"Name of the period of the term {words}"),
            Field(f"{side}_resource_id", f"Resource of the term {words}"),
            Field(f"{side}_resource_name", f"Name of the resource of the term {words}"),
            Field(f"{side}_billing_plan", f"Billing plan of the term {words}"),
            Field(f"{side}_scheduled", f"Whether the term {words} goes by a schedule", type=BOOLEAN),
        )
    ),
    Field(
        "billing_timing",
        "When the new price is charged: 0 at once, 1 at the end of the billing period, 2 at the next sell date, 3 at "
        "the end of the scheduled period",
    ),
    Field("immediate_access", "Whether the new access begins at once", type=BOOLEAN),
    Field("prorate_access", "Whether the unused value of the old term is deducted", type=BOOLEAN),
    Field("description", "Description for the publisher"),
    Field("include_trial", "Whether the new term's trial is included", type=BOOLEAN),
    Field("shared_account_count", "Accounts that may share the new term", type=INTEGER),
    Field("collect_address", "Whether an address is asked for", type=BOOLEAN),
    Field("upgrade_offers", "Offers that show the option", type=LIST),
    Field("advanced_options", "Further options", type=OBJECT),
)

PROMOTIONS: Final = (
    AID,
    Field("promotion_id", "Promotion id"),
    Field("promotion_name", "Name of the promotion", source="name"),
    Field("status", "`active`, `expired` or `new`", limits=True),
    Field("fixed_promotion_code", "The code that all readers share"),
    Field("promotion_code_prefix", "What the codes of single readers begin with"),
    Field("unlimited_uses", "Whether it may be used any number of times", type=BOOLEAN, limits=True),
    Field("uses_allowed", "How often it may be used", type=INTEGER, limits=True),
    Field("uses", "How often it was used", type=INTEGER, limits=True),
    Field("new_customers_only", "Whether only new customers may use it", type=BOOLEAN, limits=True),
    Field("discount_type", "`fixed` or `percentage`"),
    Field("discount", "Discount in words"),
    Field("discount_amount", "Fixed discount in the main currency", type=NUMBER, limits=True),
    Field("discount_currency", "Currency of that discount"),
    Field("percentage_discount", "Discount in percent", type=NUMBER, limits=True),
    Field("fixed_discount_list", "Fixed discounts by currency", type=LIST, limits=True),
    Field("never_allow_zero", "Whether the price never becomes zero", type=BOOLEAN),
    Field("term_dependency_type", "Which terms it is for: `all`, `include` or `unlocked`", limits=True),
    Field("term_ids", "The terms it is for; null where it is for all", type=TEXTS, limits=True),
    Field("start_date", "When it begins", type=MOMENT, limits=True),
    Field("end_date", "When it ends", type=MOMENT, limits=True),
    Field("apply_to_all_billing_periods", "Whether the discount goes on", type=BOOLEAN),
    Field("billing_period_limit", "For how many billing periods", type=INTEGER),
    Field("can_be_applied_on_renewal", "Whether it may be used on renewal", type=BOOLEAN, limits=True),
    _CREATED,
    _UPDATED,
    _DELETED,
    *_MADE_BY,
)

PROMO_CODES: Final = (
    AID,
    Field("promo_code_id", "Promo code id"),
    Field("promotion_id", "Promotion it belongs to", limits=True),
    Field("promo_code", "What the reader types", source="code", limits=True),
    Field("state", "State in words, such as `Reserved for free trial`"),
    Field(
        "state_value",
        "State as the API writes it: `active`, `used`, `reserved_for_free_trial` or `reserved_for_delayed_payment`",
        limits=True,
    ),
    Field("claimed_user_id", "Reader who used it", source="claimed_user.uid"),
    Field("claimed_date", "When it was used", type=MOMENT),
    Field("reserve_date", "When it was reserved", type=MOMENT),
    Field("last_original_price", "Price before the discount, with the sign of its currency"),
    _CREATED,
    _UPDATED,
    _DELETED,
    Field("assigned_email", "Address it was given to", personal=True),
    Field("claimed_user", "Reader who used it, with name and address", type=OBJECT, personal=True),
    *_MADE_BY,
)

RESOURCES: Final = (
    AID,
    Field("resource_id", "Resource id", source="rid"),
    Field("resource_name", "Name of the resource", source="name"),
    Field("description", "Description for the publisher"),
    Field("type", "`standard`, `bundle` or `print`"),
    Field("type_label", "That in words"),
    Field("bundle_type", "`undefined`, `fixed`, `tagged` or `fixed_v2`"),
    Field("bundle_type_label", "That in words"),
    Field("disabled", "Whether it is disabled", type=BOOLEAN),
    _DELETED,
    _CREATED,
    _UPDATED,
    Field("publish_date", "When it was published", type=MOMENT),
    Field("image_url", "Picture"),
    Field("purchase_url", "Where it is bought"),
    Field("resource_url", "Where it is"),
    Field("external_id", "Id elsewhere"),
    Field("product_id", "Product id"),
    Field("is_fbia_resource", "Whether it is one of Facebook's instant articles", type=BOOLEAN),
)

OFFERS: Final = (
    AID,
    Field("offer_id", "Offer id"),
    Field("offer_name", "Name of the offer", source="name"),
    Field("status", "`active` or `archived`"),
    Field("term_ids", "Terms in it, in their order", type=TEXTS, source="terms.term_id"),
    _DELETED,
    _CREATED,
    _UPDATED,
    *_MADE_BY_USER,
)

SUBSCRIPTIONS: Final = (
    AID,
    Field("subscription_id", "Subscription id"),
    Field("user_id", "Reader", source="user.uid", limits=True),
    Field("read_at", "Piano's clock when the list was read", type=MOMENT),
    Field("api_status", "Status as the API codes it, such as `active`; see docs/streams.md", source="status",
          limits=True),
    Field("api_status_name", "Status as the API names it, such as `Active`", source="status_name"),
    Field("report_status", "Status as Piano's reports name it, such as `won't renew`", source="status_name_in_reports"),
    Field("auto_renew", "Whether it renews itself", type=BOOLEAN, limits=True),
    Field("start_date", "When it began", type=MOMENT, limits=True),
    Field("end_date", "When it ends or ended", type=MOMENT, limits=True),
    Field("next_billing_date", "When it is charged next", type=MOMENT, source="next_bill_date"),
    Field("next_verification_date", "When an external one is verified next", type=MOMENT,
          source="next_verificaition_date"),
    Field("in_trial", "Whether it is in its trial", type=BOOLEAN, source="is_in_trial"),
    Field("trial_period_end_date", "When the trial ends or ended", type=MOMENT),
    Field("trial_price", "Price of the trial", type=NUMBER, source="trial_amount"),
    Field("trial_currency", "Currency of that price"),
    Field("charge_count", "How often it was charged", type=INTEGER),
    Field("billing_plan", "Billing plan in words"),
    Field("term_id", "Term", source="term.term_id"),
    Field("term_name", "Name of the term", source="term.name"),
    Field("term_type", "Type of the term, such as `Payment`", source="term.type_name"),
    Field("resource_id", "Resource", source="resource.rid"),
    Field("resource_name", "Name of the resource", source="resource.name"),
    Field("cancelable", "Whether cancelling now would end renewal and access", type=BOOLEAN),
    Field("cancelable_and_refundable", "Whether the last payment could be given back as well", type=BOOLEAN,
          source="cancelable_and_refundadle"),
    Field("conversion_result", "What became of an external conversion"),
    Field("external_api_name", "API of an external subscription"),
    Field("external_sub_id", "Id of an external subscription"),
    Field("acquisition_type", "How it was acquired"),
    Field("shared_account_limit", "How many accounts may share it", type=INTEGER),
    Field("can_manage_shared_subscription", "Whether the reader may manage those", type=BOOLEAN),
    Field("user_email", "Address of the reader", source="user.email", personal=True),
    Field("first_name", "First name", source="user.first_name", personal=True),
    Field("last_name", "Last name", source="user.last_name", personal=True),
    Field("payment_source", "Means of payment", source="payment_method", personal=True),
    Field("user_payment_info_id", "Id of the means of payment", personal=True),
    Field("user_address", "Address", type=OBJECT, personal=True),
    Field("shared_accounts", "Accounts that share it", type=LIST, personal=True),
    Field("psc_subscriber_number", "PSC subscriber number", personal=True),
    Field("cds_account_number", "CDS account number", personal=True),
    Field("upi_ext_customer_id", "Customer id of the payment provider", personal=True),
    Field("upi_ext_customer_id_label", "Label of that id", personal=True),
    Field("access_custom_data", "Custom data of the access", personal=True),
)  # fmt: skip
"""An item of subscription/list. It has neither a create date nor an update date (fact sheet, 3.3)."""

NAMEABLE: Final = frozenset(
    field.name
    for fields in (TERMS, TERM_CHANGE_OPTIONS, PROMOTIONS, PROMO_CODES, RESOURCES, OFFERS, SUBSCRIPTIONS)
    for field in fields
    if field.personal
) | {UNKNOWN_FIELDS}
"""What the setting `columns` may name that is no column of the log."""
