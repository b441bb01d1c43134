"""What is brought from elsewhere: addresses judged, documents fetched, pictures looked at."""
