//! What a scan costs: `cargo test --release -p pgferry-sql --test speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

const ORM: &str = r#"SELECT "shop_order"."id", "shop_order"."created_at", "shop_order"."updated_at", "shop_order"."customer_id",
"shop_order"."state", "shop_order"."total_amount", "shop_order"."currency", "shop_order"."shipping_address_id",
COALESCE(SUM("shop_orderline"."quantity" * "shop_orderline"."unit_price"), 0) AS "lines_total", COUNT("shop_orderline"."id")
FROM "shop_order" INNER JOIN "shop_customer" ON ("shop_order"."customer_id" = "shop_customer"."id") LEFT OUTER JOIN
"shop_orderline" ON ("shop_order"."id" = "shop_orderline"."order_id") WHERE ("shop_customer"."email" = 'someone@example.org'
AND "shop_order"."state" IN (1, 2, 3) AND UPPER("shop_customer"."name"::text) LIKE UPPER('%smith%')) GROUP BY
"shop_order"."id" HAVING COUNT("shop_orderline"."id") > 1 ORDER BY "shop_order"."created_at" DESC LIMIT 21"#;

#[test]
#[ignore = "a measurement"]
fn nanoseconds_for_a_byte() {
    for (name, text) in [
        ("pgbench", "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;"),
        ("ORM", ORM),
        ("begin", "BEGIN"),
        ("long string", &format!("INSERT INTO t (a) VALUES ('{}')", "x".repeat(10_000))),
    ] {
        let mut best = f64::MAX;
        for _ in 0..20 {
            let rounds = 4_000_000 / text.len();
            let start = Instant::now();
            for _ in 0..rounds {
                black_box(pgferry_sql::scan(black_box(text.as_bytes())));
            }
            best = best.min(start.elapsed().as_nanos() as f64 / rounds as f64);
        }
        println!("{name}: {} bytes, {best:.0} ns, {:.2} ns a byte", text.len(), best / text.len() as f64);
    }
}
