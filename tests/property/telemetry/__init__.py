"""The metrics port: any bytes have an HTTP answer, or an end."""
