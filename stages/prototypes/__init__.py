"""Between stages one and two: the map of the teacher's space that relations are drawn on."""
